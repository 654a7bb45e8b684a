"""Looking into an installation stage by stage, each in a process of its own (``shufflenet-fn doctor``)."""
