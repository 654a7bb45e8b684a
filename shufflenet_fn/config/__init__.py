"""Settings: each declared once, with presets, config files and the values that follow from them."""
