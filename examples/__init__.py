"""Each file adds one part of one's own, or uses the parts in a loop of one's own."""
