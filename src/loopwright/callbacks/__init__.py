"""Callbacks: the events, the base class, the dispatcher, and the callbacks that every Trainer has."""
