"""Services that all packages use: errors, the cache folder, compiling C++, child processes."""
