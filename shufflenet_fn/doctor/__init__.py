"""Diagnosis of an installation in stages, each in a separate process (``shufflenet-fn doctor``)."""
