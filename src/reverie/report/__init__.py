"""What people look at: the picture of dreams, the table of results, the HTML report."""
