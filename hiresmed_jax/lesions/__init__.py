"""Where lesions come from: a trained SinGAN bank, warped copies, lumpy ellipsoids."""
