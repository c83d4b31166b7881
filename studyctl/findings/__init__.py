"""What a study's figures prove: estimates of differences between variants, their intervals, and verdicts on hypotheses."""
