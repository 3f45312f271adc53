"""Networks that were really trained, and safe ways to read anyone else's: references, weight files, run folders."""
