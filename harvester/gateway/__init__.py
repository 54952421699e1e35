"""The real gateway (TWS or IB Gateway) through ib_async: the only code that knows that library."""
