"""The only place where objects are put together: one module a kind of process."""
