"""The front end of the engine."""
