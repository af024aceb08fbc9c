"""A study that lasts while its processes are killed, stopped, cut off and started again (``python -m tools.soak``)."""
