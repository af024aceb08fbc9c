"""The first model of a study: how it is drawn so that nobody chose it, and what gives away one that somebody did."""
