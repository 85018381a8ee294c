"""What every measurement needs: servers, databases, workers in processes of their own, counters."""
