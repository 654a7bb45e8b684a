"""Device runtimes: detection, collectives, layout and synchronisation, one file per kind of device."""
