"""What a choice costs in time: layers are cut out, treated and timed."""
