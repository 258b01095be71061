"""ray_config.yaml is what `serve run` and a RayService use: it must build the application, and refuse what is wrong."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray.serve import Application
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary

CONFIG = yaml.safe_load((Path(__file__).resolve().parents[2] / "ray_config.yaml").read_text(encoding="utf-8"))
[APPLICATION] = CONFIG["applications"]

pytestmark = pytest.mark.ray


def build(arguments: dict[str, Any]) -> Application:
    """As Serve does it: import path, then the builder with the arguments of the file."""
    module, _, name = APPLICATION["import_path"].partition(":")
    application: Application = call_user_app_builder_with_args_if_necessary(
        getattr(import_module(module), name), arguments
    )
    return application


@pytest.mark.parametrize("llm", ["none", "cpu", "gpu", "http://127.0.0.1:8000/v1"])
def test_the_file_builds_the_application(llm: str) -> None:
    assert isinstance(build(APPLICATION["args"] | {"llm": llm}), Application)


@pytest.mark.parametrize("wrong", [{"llm": "quantum"}, {"edge_replicas": 0}, {"unknown": 1}])
def test_wrong_arguments_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        build(APPLICATION["args"] | wrong)


def test_it_listens_where_the_command_line_does() -> None:
    assert CONFIG["http_options"]["host"] == "127.0.0.1"
    assert CONFIG["http_options"]["port"] == 4318
