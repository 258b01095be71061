"""The doors for log records: each turns its protocol into submissions for the one intake, and answers in its terms."""
