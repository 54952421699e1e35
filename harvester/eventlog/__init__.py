"""The event log: append-only, checksummed, readable while it is written.

    LogWriter    writer.py                accept batches, make them durable, number the runs of a date
    open_day     reader.py                read a date back: merged batches, tables, frames, content hash
    verify_day   verify_log.py            read every byte and compare it with its checksum
    recover_day  recover.py               move the torn bytes of a killed run to quarantine
    ContentHash  storage/content_hash.py  hash the data, independent of how it is split into batches
    DateLock     lock.py                  one writer per date

A run is a folder `temp/events/<date>/r001/` with `manifest.json`, the commit journal `commits.jsonl`, one Arrow IPC
stream `<kind>.arrows` per kind that has rows, and `live_digests.jsonl`. `storage/format.py` defines them byte by byte.
"""
