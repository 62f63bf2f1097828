"""The front end of the engine: the OpenAI API over HTTP on one side, a worker process on the other."""
