"""Questions: who is asking, what they may know, and the rows that answer them."""
