from temporal_batching.cli import main

main()
