#!/usr/bin/env bash
# Remakes the lock files. One resolution over everything first, so that agent, base, dev and llm never disagree.
# The CPU build of torch is not on the public index: PIP_FIND_LINKS (or pip's own setting) must name its place.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=.venv/bin/uv
find_links=${PIP_FIND_LINKS:-$(.venv/bin/pip config get global.find-links 2>/dev/null || true)}
options=(--quiet --no-header --no-annotate --python-version 3.11 --override requirements/overrides.txt
         --index-strategy unsafe-best-match ${find_links:+--find-links "$find_links"})
"$uv" pip compile pyproject.toml --extra server --extra dev --extra llm "${options[@]}" "$@" -o "$work/all.txt"
"$uv" pip compile pyproject.toml "${options[@]}" --generate-hashes -c "$work/all.txt" -o "$work/agent.txt"
"$uv" pip compile pyproject.toml --extra server "${options[@]}" --generate-hashes -c "$work/all.txt" -o "$work/base.txt"
"$uv" pip compile pyproject.toml --extra server --extra dev "${options[@]}" --generate-hashes -c "$work/all.txt" -o "$work/dev.txt"
"$uv" pip compile pyproject.toml --extra server --extra llm "${options[@]}" -c "$work/all.txt" -o "$work/llm-and-torch.txt"
grep -v '^torch==' "$work/llm-and-torch.txt" > "$work/llm-without-torch.txt"
"$uv" pip compile --no-deps "$work/llm-without-torch.txt" "${options[@]}" --generate-hashes -o "$work/llm.txt"
for name in agent base dev llm; do
  { echo "# Made by \`make lock\` from pyproject.toml; do not edit."; cat "$work/$name.txt"; } > "requirements/$name.txt"
done
{ echo "# The CPU build; installed apart because its index differs from every other package's."
  grep '^torch==' "$work/all.txt"; } > requirements/torch.txt
