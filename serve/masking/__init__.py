"""The server's side of masking: keys of tenants, rules that look for tokens, and what a token may be asked."""
