terraform {
  required_version = ">= 1.3"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 5.22, < 8.0" # soft_delete_policy
    }
  }
}
