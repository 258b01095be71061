"""The edge: HTTP in, thin handlers, domain calls out. `app.py` is the one place where everything is wired."""
