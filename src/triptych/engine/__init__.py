"""The real engine: the policies under the wall clock, with a torch model in place of a cost."""
