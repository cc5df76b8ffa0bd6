"""Many runs: family x size x ratio x seed, with a ledger, a report and a computed verdict."""
