"""``pilot-start --check``: everything a run needs, looked at before there is one. Nothing of it is imported by a run.

    finding.py        Finding: what was looked at, the verdict, what to do; and what a run would leave with
    side_by_side.py   all looks at once, each in its order, within a bound, whatever is silent
    credentials.py    certificate or proxy, token, Google's key, S3's key
    server.py         reachable, trusted, which API, and whether it lets us work (no job is touched)
    queue.py          the queue and the storage of its logs, as CRIC has them
    log_bucket.py     a probe object: written, replaced, read as the public does, removed
    payloads.py       rungs of isolation, container runtime, image
    node.py           work volume, memory, clocks, places where files are left
    told.py           the settings and where each came from; Harvester's variables
    report.py         the findings as a table, as plain lines, as JSON

The looks are wired by pilot/checking.py.
"""
