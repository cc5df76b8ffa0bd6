"""Many runs: family x size x ratio x seed, with a ledger and a report."""
