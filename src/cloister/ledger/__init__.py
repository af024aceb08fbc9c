"""What all parties of a study verify alike: jobs, records, the chain that they form, and who may be in a cohort."""
