"""The secure forwarder: OTLP in on loopback, durable on the host's own disk, signed batches out over TLS 1.3.

A line's way: listener (HTTP) -> intake (checked, then fsynced in the spool, then 200) -> shipper (signed, sent until
the server's own answer says what became of it) -> the spool's books, which the server's ledger is balanced against.
"""
