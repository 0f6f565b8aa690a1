"""The methods that StfNet is compared with, one a file, behind the interface in `base`."""
