"""``cloister demo``: three hospitals train one model on real data, on this machine, over real connections."""
