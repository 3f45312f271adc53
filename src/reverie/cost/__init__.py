"""What a network of given widths costs: multiply-adds, parameters, bytes, and measured milliseconds."""
