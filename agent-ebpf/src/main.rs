//! The TC classifier of wstap.
#![no_std]
#![no_main]
