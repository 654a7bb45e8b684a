"""Settings, each declared once; presets, config files and derived values."""
