"""What an auditor can check without trusting the operator. Pure functions on bytes and documents."""
