"""ArmoRM, the judge of the paper: 19 objectives mixed by a gate."""
