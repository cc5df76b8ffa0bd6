"""`jaxcomp check`: a preview of one batch, and checks for bugs that would spoil a run."""
