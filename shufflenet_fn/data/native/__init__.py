"""Reading batches in C++: what ``decode``, ``geometry`` and ``transforms`` do, in one call.

It reads files, decodes JPEGs only as far as the crop needs, and resizes them, without the GIL and without a
copy of the whole image. The results are bit-identical to those of the modules. Other formats, CMYK, several
scans and damaged files are left to the modules, and so are error messages.
"""
