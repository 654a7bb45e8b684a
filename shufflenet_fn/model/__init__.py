"""The network: what it is (config, architecture), how it starts (init) and what it computes (network)."""
