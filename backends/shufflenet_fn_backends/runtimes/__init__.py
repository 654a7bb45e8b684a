"""Device runtimes: detection, collectives, layout and synchronisation, one module per device type."""
