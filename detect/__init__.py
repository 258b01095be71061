"""The functional core of detection: values in, values out; no Ray, database, HTTP, clock or files."""
