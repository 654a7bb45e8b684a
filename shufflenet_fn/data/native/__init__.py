"""Reading batches in C++: what ``decode``, ``picture``, ``geometry`` and ``transforms`` do, in one call.

Files are read, JPEGs decoded no further than the crop needs, and resized, all without Python's lock and
without a copy of the whole image. What comes out is equal to the bit to what those modules give; what cannot
be read here (other formats, CMYK, several scans, anything damaged) is left to them, and so are messages.
"""
