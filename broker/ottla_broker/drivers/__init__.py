"""Drivers that run the pure state machines against sockets, files and the clock."""
