"""The event log: append-only, checksummed, readable while it is written.

    LogWriter    writer.py    accept batches, make them durable, number the runs of a date
    open_day     reader.py    read a date back: merged batches, tables, frames, identity
    verify_day   verify.py    re-read every byte and prove it
    recover_day  recover.py   move torn bytes of a killed run aside
    ContentHash  content.py   what data is, however it was cut
    DateLock     lock.py      one writer per date

A run is a folder `temp/events/<date>/r001/` with `manifest.json`, the commit journal `commits.jsonl`, one Arrow IPC
stream `<kind>.arrows` per kind that has rows, and `live_digests.jsonl`. `format.py` describes them byte by byte.
"""
