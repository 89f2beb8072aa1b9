package cluster

// replicasNow is how many relays the suite runs.
const replicasNow = 3
