"""An agent on its host: where its files are, enrolling it, running its programs, looking at it, removing it."""
