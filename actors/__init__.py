"""Ray state and scheduling: thin shells around the functional core. Classes here are plain; Ray wraps them by call."""
