"""The real gateway (TWS or IB Gateway) through ib_async; no other package imports that library."""
