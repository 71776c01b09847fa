"""What a choice costs in quality, end to end: the network is run with one layer changed."""
