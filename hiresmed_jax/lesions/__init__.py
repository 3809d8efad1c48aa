"""Where lesions come from: a trained SinGAN bank, copies, lumpy ellipsoids."""
