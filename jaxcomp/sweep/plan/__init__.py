"""Before a slice is booked: does every setup fit, how fast would it be, what would it cost."""
